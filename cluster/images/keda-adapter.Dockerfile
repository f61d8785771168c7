FROM scratch
COPY keda-adapter /keda-adapter
USER 65532:65532
ENTRYPOINT ["/keda-adapter"]
