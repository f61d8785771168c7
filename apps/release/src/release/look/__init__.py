"""What `release status` sees beside Argo CD's word: live objects, addresses, traffic."""
