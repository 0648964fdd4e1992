"""The four Guildhall services and the frame they are bolted onto."""
