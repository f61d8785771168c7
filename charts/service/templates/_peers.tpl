{{/*
A peer of the platform as it stands in `platform.peers`, `gateway` being the ingress gateway; an
empty map where the name is no peer's. As JSON.
Sample: {{- $peer := include "service.platformPeer" (dict "root" $ "name" "s3") | fromJson }}
*/}}
{{- define "service.platformPeer" -}}
{{- $platform := .root.Values.platform -}}
{{- if eq .name "gateway" -}}
{{- dict "namespace" $platform.gateway.namespace "pods" $platform.gateway.selector "serviceAccount" $platform.gateway.serviceAccount | toJson -}}
{{- else -}}
{{- index $platform.peers .name | default dict | toJson -}}
{{- end -}}
{{- end }}

{{/*
Names of a map of callers, callees or peers but for those that are false or null, as a JSON list.
Sample: {{- range $name := include "service.kept" .Values.callers | fromJsonArray }}
*/}}
{{- define "service.kept" -}}
{{- $kept := list -}}
{{- range $name, $value := . -}}
{{- if not (or (kindIs "invalid" $value) (eq (toString $value) "false")) }}{{ $kept = append $kept $name }}{{ end -}}
{{- end -}}
{{- toJson $kept -}}
{{- end }}

{{/*
The ends of a connection in a NetworkPolicy: a peer of the platform, or a release of this namespace.
Sample: - from: {{- include "service.networkPeers" (dict "root" $ "name" "gateway") | nindent 8 }}
*/}}
{{- define "service.networkPeers" -}}
{{- $peer := include "service.platformPeer" . | fromJson -}}
{{- if not $peer }}
- podSelector:
    matchLabels: {app.kubernetes.io/instance: {{ .name | quote }}}
{{- else if $peer.cidrs }}
{{- if and $peer.except (ne (len $peer.cidrs) 1) }}
{{- fail (printf "platform.peers.%s has except beside %d cidrs: make a peer of each, or take except out" .name (len $peer.cidrs)) }}
{{- end }}
{{- if $peer.serviceAccount }}
{{- fail (printf "platform.peers.%s has cidrs and a serviceAccount: addresses have no identity in the mesh, so take one of them out" .name) }}
{{- end }}
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
{{- fail (printf "platform.peers.%s has neither namespace nor cidrs: set one of them" .name) }}
{{- end }}
{{- end }}

{{/*
Ports of a NetworkPolicy from "8080/TCP".
Sample: ports: {{- include "service.networkPorts" (list "8080/TCP") | nindent 8 }}
*/}}
{{- define "service.networkPorts" -}}
{{- range . }}
{{- $parts := splitList "/" . }}
- {port: {{ index $parts 0 }}, protocol: {{ index $parts 1 }}}
{{- end }}
{{- end }}

{{/*
The ports of the container, as a JSON list of "8080/TCP".
Sample: {{- $ports := include "service.ownPorts" . | fromJsonArray }}
*/}}
{{- define "service.ownPorts" -}}
{{- $own := list -}}
{{- range $name, $port := .Values.ports }}{{ if $port }}{{ $own = append $own (printf "%v/TCP" $port) }}{{ end }}{{ end -}}
{{- toJson $own -}}
{{- end }}

{{/*
The mesh identity of a caller; empty for a peer that has none.
Sample: {{- $principal := include "service.principal" (dict "root" $ "name" "proxy") }}
*/}}
{{- define "service.principal" -}}
{{- $peer := include "service.platformPeer" . | fromJson -}}
{{- $trust := .root.Values.platform.trustDomain -}}
{{- if not $peer -}}
{{- printf "%s/ns/%s/sa/%s" $trust .root.Release.Namespace .name -}}
{{- else if $peer.serviceAccount -}}
{{- printf "%s/ns/%s/sa/%s" $trust $peer.namespace $peer.serviceAccount -}}
{{- end -}}
{{- end }}
