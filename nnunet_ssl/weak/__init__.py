"""Weak labels made from dense ones: scribbles, points, boxes, single slices, partly annotated cases; and seeds made denser.

`strokes`, `points` and `boxes` hold the rules as pure functions of masks; `generate` applies them to a case; `command` is
`nnunet_ssl weaken`, which applies them to a data set. `expand` is `nnunet_ssl expand`, with the functions of
`nnunet_ssl.seed_expansion`. `derived` writes a data set from another one, `contact_sheet` draws what was made.
"""
