"""Text becomes token files, and token files become the streams that the stages train on."""
