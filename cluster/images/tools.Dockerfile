# What Argo CD, Istio and Redis need of Debian beyond the base.
FROM localhost/slipway/python
RUN apt-get update -qq \
    && DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends \
        git git-lfs gnupg iptables openssh-client redis-server tini \
    && rm -rf /var/lib/apt/lists/* /var/cache/apt/*.bin /var/log/*.log
