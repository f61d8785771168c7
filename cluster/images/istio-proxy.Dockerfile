FROM localhost/slipway/tools
COPY --chmod=0755 envoy pilot-agent /usr/local/bin/
COPY envoy_bootstrap.json /var/lib/istio/envoy/envoy_bootstrap_tmpl.json
USER 1337:1337
ENTRYPOINT ["/usr/local/bin/pilot-agent"]
