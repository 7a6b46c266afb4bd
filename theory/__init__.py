"""The linear network of Section 5 and Appendix C through the three stages; README.md here has the science."""
