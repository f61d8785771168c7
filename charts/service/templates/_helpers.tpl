{{/*
The release's name. Helm allows 53 characters; a CronJob has 52, since its Jobs add 11 to make 63.
Sample: name: {{ include "service.name" . }}
*/}}
{{- define "service.name" -}}
{{- if and (eq .Values.kind "CronJob") (gt (len .Release.Name) 52) -}}
{{- fail (printf "release name %q has %d characters: a CronJob may have 52, so shorten the row in argocd/environments/<env>.yaml" .Release.Name (len .Release.Name)) -}}
{{- end -}}
{{- .Release.Name -}}
{{- end }}

{{/*
Labels that select the pods: they never change during a release's life.
Sample: matchLabels: {{- include "service.selectorLabels" . | nindent 4 }}
*/}}
{{- define "service.selectorLabels" -}}
app.kubernetes.io/name: {{ include "service.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: {{ .Values.component }}
{{- end }}

{{/*
Labels of every object.
Sample: labels: {{- include "service.labels" . | nindent 4 }}
*/}}
{{- define "service.labels" -}}
{{ include "service.selectorLabels" . }}
app.kubernetes.io/part-of: slipway
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version }}
{{- end }}

{{/*
Labels of the pods: without the chart's version, so that a chart bump restarts nothing.
Sample: labels: {{- include "service.podLabels" . | nindent 4 }}
*/}}
{{- define "service.podLabels" -}}
{{ include "service.selectorLabels" . }}
app.kubernetes.io/part-of: slipway
app.kubernetes.io/version: {{ .Values.image.tag | replace "+" "_" | trunc 63 | trimSuffix "-" | trimSuffix "." | trimSuffix "_" | quote }}
{{- if not .Values.sidecar.inject }}
sidecar.istio.io/inject: "false"
{{- end }}
{{- with .Values.podLabels }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{/*
Whether a group of values is "all", "none" or, refused, partly set.
Sample: {{ include "service.filled" (dict "key" "image" "group" .Values.image) }}
*/}}
{{- define "service.filled" -}}
{{- $empty := list -}}
{{- range $key, $value := .group }}{{- if not $value }}{{- $empty = append $empty (printf "%s.%s" $.key $key) }}{{- end }}{{- end -}}
{{- if not $empty -}}
all
{{- else if eq (len $empty) (len .group) -}}
none
{{- else -}}
{{- fail (printf "%s is empty while the rest of %s is set: let `release %s set` write all of them, or empty all of them to deploy nothing" (join ", " $empty) .key .key) -}}
{{- end -}}
{{- end }}

{{/*
"true" where there is something to run: an image and, where they are fetched, models.
Sample: {{- if eq (include "service.deployed" .) "true" }}
*/}}
{{- define "service.deployed" -}}
{{- $image := include "service.filled" (dict "key" "image" "group" .Values.image) -}}
{{- if and .Values.models (not .Values.modelFetch.enabled) -}}
{{- fail (printf "models has %s but nothing fetches it: set modelFetch.enabled, or empty models" (keys .Values.models | sortAlpha | join ", ")) -}}
{{- end -}}
{{- and (eq $image "all") (or (not (empty .Values.models)) (not .Values.modelFetch.enabled)) -}}
{{- end }}

{{/*
"true" where this kind of workload is to run.
Sample: {{- if eq (include "service.runs" (list . "Deployment")) "true" }}
*/}}
{{- define "service.runs" -}}
{{- $root := index . 0 -}}
{{- and (eq $root.Values.kind (index . 1)) (eq (include "service.deployed" $root) "true") -}}
{{- end }}

{{/*
The image, by digest; the tag is for people.
Sample: image: {{ include "service.image" . }}
*/}}
{{- define "service.image" -}}
{{- printf "%s:%s@%s" .Values.image.repository .Values.image.tag .Values.image.digest | quote -}}
{{- end }}

{{/*
What the platform, each peer in `uses` and the release itself set under a key, the later one
winning; as JSON.
Sample: {{- range $name, $value := include "service.layered" (dict "root" . "key" "env") | fromJson }}
*/}}
{{- define "service.layered" -}}
{{- $layers := list (index .root.Values.platform .key) -}}
{{- range include "service.kept" .root.Values.uses | fromJsonArray -}}
{{- $layers = append $layers (index (index $.root.Values.platform.peers . | default dict) $.key) -}}
{{- end -}}
{{- $layers = append $layers (index .root.Values .key) -}}
{{- $merged := dict -}}
{{- range $layers }}{{ range $name, $value := . }}{{ $_ := set $merged $name $value }}{{ end }}{{ end -}}
{{- toJson $merged -}}
{{- end }}

{{/*
Environment variables that are set, as the ConfigMap's data.
Sample: data: {{- include "service.env" . | nindent 2 }}
*/}}
{{- define "service.env" -}}
{{- range $name, $value := include "service.layered" (dict "root" . "key" "env") | fromJson }}
{{- if not (kindIs "invalid" $value) }}
{{ $name }}: {{ if kindIs "string" $value }}{{ $value | quote }}{{ else }}{{ $value | toJson | quote }}{{ end }}
{{- end }}
{{- end }}
{{- end }}

{{/*
Refuses a rollout that counts as failed while a pod may still start.
Sample: {{- include "service.timeToStart" . }}
*/}}
{{- define "service.timeToStart" -}}
{{- $deadline := int .Values.strategy.progressDeadlineSeconds -}}
{{- with .Values.probes.startup -}}
{{- $start := mul .periodSeconds .failureThreshold | int -}}
{{- if le $deadline $start -}}
{{- fail (printf "strategy.progressDeadlineSeconds is %d, but probes.startup allows a start of %d s: raise the one above it, or lower probes.startup.failureThreshold" $deadline $start) -}}
{{- end -}}
{{- end -}}
{{- end }}

{{/*
Refuses a model folder that has more room than the pod: it would be evicted while it fetches.
Sample: {{- include "service.roomForModel" . }}
*/}}
{{- define "service.roomForModel" -}}
{{- $size := .Values.modelFetch.sizeLimit -}}
{{- with index .Values.resources.limits "ephemeral-storage" -}}
{{- $needed := addf (include "service.bytes" $size) (include "service.bytes" "256Mi") -}}
{{- if lt (include "service.bytes" . | float64) $needed -}}
{{- fail (printf "modelFetch.sizeLimit is %q, which with the 256Mi of /tmp is above resources.limits.ephemeral-storage %q: a pod that fills it is evicted, so raise the limit or lower the size" $size (toString .)) -}}
{{- end -}}
{{- end -}}
{{- end }}

{{/*
A quantity such as "1Gi" in bytes.
Sample: {{ include "service.bytes" "1Gi" }}
*/}}
{{- define "service.bytes" -}}
{{- $unit := regexFind "[A-Za-z]+$" (toString .) -}}
{{- $factors := dict "" 1 "k" 1e3 "M" 1e6 "G" 1e9 "T" 1e12 "Ki" 1024 "Mi" 1048576 "Gi" 1073741824 "Ti" 1099511627776 -}}
{{- mulf (trimSuffix $unit (toString .)) (get $factors $unit | default 0) -}}
{{- end }}

{{/*
Refuses two owners of the number of pods.
Sample: {{- include "service.oneScaler" . }}
*/}}
{{- define "service.oneScaler" -}}
{{- $owners := list -}}
{{- if not (kindIs "invalid" .Values.replicas) }}{{ $owners = append $owners "replicas" }}{{ end -}}
{{- if .Values.autoscaling.enabled }}{{ $owners = append $owners "autoscaling.enabled" }}{{ end -}}
{{- if .Values.keda.enabled }}{{ $owners = append $owners "keda.enabled" }}{{ end -}}
{{- if gt (len $owners) 1 -}}
{{- fail (printf "%s are set together, but only one may own the number of pods: keep one, set replicas to null" (join " and " $owners)) -}}
{{- end -}}
{{- end }}
