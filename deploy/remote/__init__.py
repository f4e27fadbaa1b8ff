"""Times exported files on another device, which is reached by a transport such as ssh or adb.

A folder with the files and a program is copied to the device, measures there, and is removed.
"""
