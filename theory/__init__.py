"""Linear networks through three stages: the paper's, one that does what it claims, and the companions'.

README.md here has the science.
"""
