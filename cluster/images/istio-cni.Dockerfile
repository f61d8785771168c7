FROM localhost/slipway/tools
COPY --chmod=0755 istio-cni /opt/cni/bin/istio-cni
COPY --chmod=0755 install-cni /usr/local/bin/install-cni
WORKDIR /opt/cni/bin
CMD ["/usr/local/bin/install-cni"]
