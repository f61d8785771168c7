{{/*
Labels of every object.
Sample: labels: {{- include "environment.labels" . | nindent 4 }}
*/}}
{{- define "environment.labels" -}}
app.kubernetes.io/name: environment
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/part-of: slipway
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version }}
{{- end }}

{{/*
A peer of a NetworkPolicy: addresses, pods of another namespace, or a release of this one.
Sample: - {{- include "environment.peer" (dict "root" $ "name" "dns" "key" "everyone") | nindent 2 }}
*/}}
{{- define "environment.peer" -}}
{{- $peer := index .root.Values.peers .name -}}
{{- if and $peer $peer.cidr -}}
ipBlock:
  cidr: {{ $peer.cidr }}
  {{- with $peer.except }}
  except: {{- toYaml . | nindent 4 }}
  {{- end }}
{{- else if $peer -}}
{{- if not $peer.namespace -}}
{{- fail (printf "peers.%s has neither namespace nor cidr: set one of them" .name) -}}
{{- end -}}
namespaceSelector:
  matchLabels: {kubernetes.io/metadata.name: {{ $peer.namespace }}}
{{- with $peer.pods }}
podSelector:
  matchLabels: {{- toYaml . | nindent 4 }}
{{- end }}
{{- else if hasKey .root.Values.services .name -}}
podSelector:
  matchLabels: {app.kubernetes.io/instance: {{ .name }}}
{{- else -}}
{{- fail (printf "%s names %q, which is neither a key of peers (%s) nor of services (%s): declare it, or correct the name" .key .name (keys .root.Values.peers | sortAlpha | join ", ") (keys .root.Values.services | sortAlpha | join ", ")) -}}
{{- end -}}
{{- end }}

{{/*
Ports of a NetworkPolicy from "8080/TCP".
Sample: ports: {{- include "environment.ports" (list "8080/TCP") | nindent 4 }}
*/}}
{{- define "environment.ports" -}}
{{- range . }}
{{- $parts := splitList "/" . }}
- {port: {{ index $parts 0 }}, protocol: {{ index $parts 1 }}}
{{- end }}
{{- end }}

{{/*
Egress rules to peers by name. Without ports a rule would mean every port.
Sample: egress: {{- include "environment.egress" (dict "root" $ "names" (list "dns") "key" "everyone") | nindent 4 }}
*/}}
{{- define "environment.egress" -}}
{{- range .names }}
{{- $to := include "environment.peer" (dict "root" $.root "name" . "key" $.key) }}
{{- $peer := index $.root.Values.peers . }}
{{- if not $peer }}
{{- fail (printf "%s names %q, a release of this environment: take it out and name the caller under services.%s.from, with the port" $.key . .) }}
{{- end }}
{{- if not $peer.ports }}
{{- fail (printf "%s names %q, but peers.%s has no ports, which would open all of them: set peers.%s.ports" $.key . . .) }}
{{- end }}
- to:
    - {{- $to | nindent 6 }}
  ports: {{- include "environment.ports" $peer.ports | trim | nindent 4 }}
{{- end }}
{{- end }}
