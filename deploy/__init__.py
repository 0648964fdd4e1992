"""How the suite is run: embedded on one machine (`stack`), behind Envoy (`envoy`), in containers and on Kubernetes."""
