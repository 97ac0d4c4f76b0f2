"""What is kept for a user between submissions. Losing it loses nothing but time.

Everything here is valid only while the files that it was drawn from are what they were, lies in a
directory that only the user can write to, and is believed only when every byte of it is intact.
"""
