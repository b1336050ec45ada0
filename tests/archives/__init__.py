"""Stand-ins for archives of records, on loopback: each answers like its archive's API, and each answer names the page that it follows."""
