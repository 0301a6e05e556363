"""The builders of the packs: they draw pictures out of packages of Debian and npm.

They are part of the source repository and of no installed nearfar, which only reads what they build.
"""
