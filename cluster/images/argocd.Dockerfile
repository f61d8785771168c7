FROM localhost/slipway/tools
RUN groupadd -g 999 argocd && useradd -r -u 999 -g argocd -d /home/argocd -m argocd \
    && mkdir -p /app/config/ssh /app/config/tls /app/config/gpg/source /app/config/gpg/keys \
    && touch /app/config/ssh/ssh_known_hosts \
    && ln -s /app/config/ssh/ssh_known_hosts /etc/ssh/ssh_known_hosts \
    && chown -R argocd:argocd /app/config/gpg/keys && chmod 0700 /app/config/gpg/keys
COPY --chmod=0755 argocd helm /usr/local/bin/
COPY --chmod=0755 entrypoint.sh gpg-wrapper.sh git-verify-wrapper.sh /usr/local/bin/
RUN cd /usr/local/bin && for name in server repo-server cmp-server application-controller dex \
        notifications applicationset-controller k8s-auth commit-server; do \
        ln -s argocd "argocd-$name"; done
ENV USER=argocd
USER 999
WORKDIR /home/argocd
ENTRYPOINT ["/usr/bin/tini", "--"]
