"""The manifests in deploy/kubernetes: rendered, validated, and held against policies and against the code."""
