FROM localhost/slipway/tools
USER 65532:65532
# The image Argo CD's manifest names starts the server when it is given options alone.
ENTRYPOINT ["redis-server"]
