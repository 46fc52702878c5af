"""Reports for a browser: a page of panels, in one file that needs no network (extra `kvplan[report]`).

`panel` has the records that a page is made of, `page` writes them; one file a command turns its result into panels.
"""
