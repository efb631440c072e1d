"""Every private torch API that dynatrain uses, checked when it is imported."""
