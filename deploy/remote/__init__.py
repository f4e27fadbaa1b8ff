"""Times exported files on another device, which is reached by a transport such as ssh or adb.

A folder with the files and a program that times them is copied to the device, and removed at the end.
"""
