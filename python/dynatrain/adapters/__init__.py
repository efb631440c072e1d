"""Adapters: one port, and a folder for each framework that implements it."""

from dynatrain.adapters.port import Adapter, Inventory, Part, Published, SlotNote, Slots, Values

__all__ = ["Adapter", "Inventory", "Part", "Published", "SlotNote", "Slots", "Values"]
