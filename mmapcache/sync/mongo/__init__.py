"""Documents from MongoDB: the only package that imports pymongo."""
