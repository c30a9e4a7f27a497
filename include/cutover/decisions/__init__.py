"""The plan's decisions about awkward values and orphans, carried out on a clone of the backup and audited.

The decided snapshot, its record, the listing for people and the quarantine in the target live here. The plan's words for
decisions (``plan``) and the search for rows that need one (``assessment``) do not.
"""
