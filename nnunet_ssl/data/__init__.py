"""Raw data sets on disk, their lists, splits and checks."""
