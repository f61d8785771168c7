{{/*
Findings of checkers that do not hold here, as annotations of a workload, each with its reason:
the chart's own, and those of the values.
Sample: annotations: {{- include "service.findings" . | nindent 4 }}
*/}}
{{- define "service.findings" -}}
{{- $findings := dict
  "container-image-pull-policy" "the digest names the content, so a copy on the node cannot be stale"
  "deployment-has-host-podantiaffinity" "topologySpread does that, and also over zones"
}}
{{- if include "service.layered" (dict "root" . "key" "envFromSecrets") | fromJson }}
{{- $_ := set $findings "CKV_K8S_35" "the AWS SDKs read keys from the environment; on EKS a role takes the place of the Secret" }}
{{- end }}
{{- range $check, $reason := .Values.findings }}{{ $_ := set $findings $check $reason }}{{ end }}
{{- $ignored := list }}
{{- $number := 0 }}
{{- range $check, $reason := $findings }}
{{- if and $reason (hasPrefix "CKV_" $check) }}
{{- $number = add1 $number }}
checkov.io/skip{{ $number }}: {{ printf "%s=%s" $check $reason | quote }}
{{- else if $reason }}
# {{ $check }}: {{ $reason }}
{{- $ignored = append $ignored $check }}
{{- end }}
{{- end }}
kube-score/ignore: {{ join "," $ignored }}
{{- end }}
