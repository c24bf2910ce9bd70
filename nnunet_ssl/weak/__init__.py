"""Weak labels made from dense ones: scribbles, points, boxes, single slices, partly annotated cases.

`strokes`, `points` and `boxes` hold the rules as pure functions of masks; `generate` applies them to a case; `command` is
`nnunet_ssl weaken`, which applies them to a data set; `contact_sheet` draws what it made.
"""
