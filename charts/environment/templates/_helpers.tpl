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
The ends of a connection in a NetworkPolicy to a peer of the platform, by name.
Sample: to: {{- include "environment.networkPeers" (dict "root" $ "name" "dns") | nindent 6 }}
*/}}
{{- define "environment.networkPeers" -}}
{{- $peers := .root.Values.platform.peers -}}
{{- $peer := index $peers .name | default dict -}}
{{- if not (hasKey $peers .name) -}}
{{- fail (printf "platform.everyone names %q, which is none of platform.peers (%s): declare it there, or correct the name" .name (keys $peers | sortAlpha | join ", ")) -}}
{{- else if not $peer.ports -}}
{{- fail (printf "platform.everyone names %q, but platform.peers.%s has no ports, which would open all of them: set platform.peers.%s.ports" .name .name .name) -}}
{{- else if and $peer.cidrs $peer.except (ne (len $peer.cidrs) 1) -}}
{{- fail (printf "platform.peers.%s has except beside %d cidrs: make a peer of each, or take except out" .name (len $peer.cidrs)) -}}
{{- else if $peer.cidrs }}
{{- range $peer.cidrs }}
- ipBlock:
    cidr: {{ . | quote }}
    {{- with $peer.except }}
    except: {{- toYaml . | nindent 6 }}
    {{- end }}
{{- end }}
{{- else if $peer.namespace }}
- namespaceSelector:
    matchLabels: {kubernetes.io/metadata.name: {{ $peer.namespace | quote }}}
  {{- with $peer.pods }}
  podSelector:
    matchLabels: {{- toYaml . | nindent 6 }}
  {{- end }}
{{- else }}
{{- fail (printf "platform.peers.%s has neither namespace nor cidrs: set one of them" .name) -}}
{{- end }}
{{- end }}
