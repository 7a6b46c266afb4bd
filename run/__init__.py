"""What every command needs: the update, ranks, resume, checkpoints, flags. It imports only itself."""
