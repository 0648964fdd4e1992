"""What Prometheus and Grafana are given: a scrape configuration, alert rules and a dashboard."""
