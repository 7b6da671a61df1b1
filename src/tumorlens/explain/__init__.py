"""Attribution maps and what is measured of them."""
