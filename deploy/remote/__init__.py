"""What the `guildhall` command does as a person at a gateway, which may be anywhere: by guildhall.client alone."""
