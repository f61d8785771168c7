{{/*
Findings of checkers that do not hold here, as annotations of a workload, each with its reason.
Sample: annotations: {{- include "service.findings" . | nindent 4 }}
*/}}
{{- define "service.findings" -}}
# container-image-pull-policy: the digest names the content, so a copy on the node cannot be stale.
# deployment-has-host-podantiaffinity: topologySpread does that, and also over zones.
kube-score/ignore: container-image-pull-policy,deployment-has-host-podantiaffinity
{{- end }}
