"""Our steps, sampling and samples measured against those of others."""
