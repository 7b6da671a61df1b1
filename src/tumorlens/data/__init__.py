"""Images on disk: folders, readers, cache, augmentation, copies, splits, phantom."""
