"""From good photos to a model folder: the stages of a fit, and the run that stores, resumes and logs it."""
