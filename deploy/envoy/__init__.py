"""The gateway: Envoy's configuration, generated from the contracts and a few addresses.

One source for the embedded stack, Compose and Kubernetes: `config.render` is given other addresses, nothing else.
"""
