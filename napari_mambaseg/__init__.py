"""The napari plugin of mambaseg: widgets over the public API; all computing happens in a process of its own.

napari reads `napari.yaml` and imports a module here when its command is first used.
"""
