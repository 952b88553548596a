"""Query-by-example search: dynamic time warping of a query against documents."""
