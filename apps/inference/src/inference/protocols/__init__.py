"""The protocols: REST and gRPC of the Open Inference Protocol, V1 and SageMaker."""
