"""What the cluster itself shows beside Argo CD's word: objects, ingress gateway, traffic."""
