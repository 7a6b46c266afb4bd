"""The linear network of Section 5 and Appendix C through the three stages: see README.md here, run `python -m theory`."""
