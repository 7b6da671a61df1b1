"""Images on disk: folders, readers, cache, augmentation, near-duplicates, splits, phantom."""
