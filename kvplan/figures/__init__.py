"""Charts from plain series: what results and reports draw, as plotly figures (extra `kvplan[report]`)."""
