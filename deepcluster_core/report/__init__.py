"""report.html: charts, the cluster gallery and the page around them."""
