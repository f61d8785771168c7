{{/*
Labels of every object.
Sample: labels: {{- include "routing.labels" . | nindent 4 }}
*/}}
{{- define "routing.labels" -}}
app.kubernetes.io/name: routing
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/part-of: slipway
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version }}
{{- end }}

{{/*
A destination ("release" or "release/subset") as host, subset and, at the gateway, port; inside the
mesh a request keeps the port it was sent to. A destination that nobody declared is refused.
Sample: destination: {{- include "routing.destination" (dict "root" $ "to" "inference" "path" "/v2" "key" "services.proxy.split") | nindent 10 }}
*/}}
{{- define "routing.destination" -}}
{{- $parts := splitList "/" .to -}}
{{- $release := index $parts 0 -}}
{{- if not (hasKey .root.Values.services $release) -}}
{{- fail (printf "%s names %q, which is no key of services (%s): add services.%s, or correct the name" .key $release (keys .root.Values.services | sortAlpha | join ", ") $release) -}}
{{- end -}}
{{- $service := index .root.Values.services $release | default dict -}}
host: {{ $release | quote }}
{{- if eq (len $parts) 2 }}
{{- if not (hasKey ($service.subsets | default dict) (index $parts 1)) }}
{{- fail (printf "%s names %q, but services.%s.subsets has no %q" .key .to $release (index $parts 1)) }}
{{- end }}
subset: {{ index $parts 1 | quote }}
{{- end }}
{{- if .path }}
port: {number: {{ $service.port | default 8080 }}}
{{- end }}
{{- end }}

{{/*
Rule names of a service in the order they are tried, as a JSON list.
Sample: {{ range include "routing.ruleOrder" $service | fromJsonArray }}
*/}}
{{- define "routing.ruleOrder" -}}
{{- $sortable := list -}}
{{- range $name, $rule := .rules }}
{{- $order := 100 }}{{ if hasKey $rule "order" }}{{ $order = $rule.order }}{{ end }}
{{- $sortable = append $sortable (printf "%04d %s" (int $order) $name) }}
{{- end -}}
{{- $names := list -}}
{{- range sortAlpha $sortable }}{{ $names = append $names (index (splitList " " .) 1) }}{{ end -}}
{{- toJson $names -}}
{{- end }}

{{/*
HTTP routes of one service: sticky arms, then rules, then the split.
`path` is the prefix at the gateway ("" inside the mesh); claims are only known there.
Sample: http: {{- include "routing.routes" (dict "root" $ "name" "inference" "path" "") | nindent 4 }}
*/}}
{{- define "routing.routes" -}}
{{- $root := .root }}
{{- $name := .name }}
{{- $service := index $root.Values.services $name | default dict }}
{{- $path := .path }}
{{- $common := dict "root" $root "name" $name "path" $path "service" $service }}
{{- with $service.fault }}
- name: {{ $name }}-fault
  match: {{- include "routing.match" (dict "path" $path "headers" (dict "x-slipway-fault" .value)) | trim | nindent 4 }}
  fault:
    {{- $percent := 100 }}{{ if hasKey . "percent" }}{{ $percent = .percent }}{{ end }}
    {{- with .delay }}
    delay: {fixedDelay: {{ . }}, percentage: {value: {{ $percent }}}}
    {{- end }}
    {{- with .abort }}
    abort: {httpStatus: {{ . }}, percentage: {value: {{ $percent }}}}
    {{- end }}
  route:
    - destination: {{- include "routing.destination" (dict "root" $root "path" $path "to" $name "key" (printf "services.%s.fault" $name)) | nindent 8 }}
  {{- include "routing.common" (merge (dict "to" $name) $common) | trim | nindent 2 }}
{{- end }}
{{- range $arm, $to := $service.arms }}
- name: {{ printf "%s-arm-%s" $name $arm | quote }}
  match: {{- include "routing.match" (dict "path" $path "headers" (dict "x-slipway-arm" $arm)) | trim | nindent 4 }}
  route:
    - destination: {{- include "routing.destination" (dict "root" $root "path" $path "to" $to "key" (printf "services.%s.arms.%s" $name $arm)) | nindent 8 }}
  {{- include "routing.common" (merge (dict "to" $to) $common) | trim | nindent 2 }}
{{- end }}
{{- range $key := include "routing.ruleOrder" $service | fromJsonArray }}
{{- $rule := index $service.rules $key }}
{{- if not (or $rule.headers $rule.query $rule.claims) }}
{{- fail (printf "services.%s.rules.%s has no condition: set headers, query or claims, or use split" $name $key) }}
{{- end }}
{{- if and $rule.claims (not $root.Values.platform.gateway.verifiesTokens) }}
{{- fail (printf "services.%s.rules.%s.claims: only a gateway that verifies tokens knows their claims, and those of this environment are verified by its pods: set platform.gateway.verifiesTokens where the gateway's owner has a RequestAuthentication of the issuer there, or route by a header" $name $key) }}
{{- end }}
{{- if or $path (not $rule.claims) }}
- name: {{ printf "%s-rule-%s" $name $key | quote }}
  match: {{- include "routing.match" (dict "path" $path "headers" $rule.headers "query" $rule.query "claims" $rule.claims) | trim | nindent 4 }}
  route:
    - destination: {{- include "routing.destination" (dict "root" $root "path" $path "to" $rule.to "key" (printf "services.%s.rules.%s.to" $name $key)) | nindent 8 }}
  {{- include "routing.common" (merge (dict "to" $rule.to) $common) | trim | nindent 2 }}
{{- end }}
{{- end }}
{{- $split := $service.split | default (dict $name 100) }}
{{- $sum := 0 }}
{{- range $split }}{{ $sum = add $sum . }}{{ end }}
{{- if ne (int $sum) 100 }}
{{- fail (printf "services.%s.split adds up to %d (%s): make it 100" $name (int $sum) (toJson $split)) }}
{{- end }}
- name: {{ $name }}
  {{- if $path }}
  match: {{- include "routing.match" (dict "path" $path) | trim | nindent 4 }}
  {{- end }}
  route:
    {{- range $to, $weight := $split }}
    - destination: {{- include "routing.destination" (dict "root" $root "path" $path "to" $to "key" (printf "services.%s.split" $name)) | nindent 8 }}
      weight: {{ $weight }}
    {{- end }}
  {{- include "routing.common" (merge (dict "to" "") $common) | trim | nindent 2 }}
{{- end }}

{{/*
The match of a route: a path prefix counted in whole segments, and all conditions.
Sample: match: {{- include "routing.match" (dict "path" "/v2" "headers" (dict "x-group" "beta")) | trim | nindent 4 }}
*/}}
{{- define "routing.match" -}}
{{- $conditions := include "routing.conditions" . | trim -}}
{{- if or (not .path) (eq .path "/") }}
- uri: {prefix: /}
  {{- with $conditions }}{{ . | nindent 2 }}{{ end }}
{{- else }}
- uri: {exact: {{ .path | quote }}}
  {{- with $conditions }}{{ . | nindent 2 }}{{ end }}
- uri: {prefix: {{ printf "%s/" (trimSuffix "/" .path) | quote }}}
  {{- with $conditions }}{{ . | nindent 2 }}{{ end }}
{{- end }}
{{- end }}

{{/*
Headers, claims and query parameters of a match.
Sample: {{- include "routing.conditions" (dict "headers" (dict "x-group" "beta")) | nindent 2 }}
*/}}
{{- define "routing.conditions" -}}
{{- if or .headers .claims }}
headers:
  {{- range $header, $value := .headers }}
  {{ lower $header | quote }}: {exact: {{ $value | quote }}}
  {{- end }}
  {{- range $claim, $value := .claims }}
  {{ printf "@request.auth.claims.%s" $claim | quote }}: {exact: {{ $value | quote }}}
  {{- end }}
{{- end }}
{{- if .query }}
queryParams:
  {{- range $parameter, $value := .query }}
  {{ $parameter | quote }}: {exact: {{ $value | quote }}}
  {{- end }}
{{- end }}
{{- end }}

{{/*
What every route of a service has: timeout, retries, CORS at the gateway, and the mirror,
unless all its requests (`to`) go there anyway.
Sample: {{- include "routing.common" (dict "root" $ "name" "inference" "path" "" "service" $service "to" "inference") | nindent 2 }}
*/}}
{{- define "routing.common" -}}
{{- $retries := .service.retries | default dict }}
{{- $on := $retries.retryOn | default (list "connect-failure" "refused-stream" "reset-before-request") }}
{{- if not $retries.idempotent }}
{{- range $on }}
{{- if not (has . (list "connect-failure" "refused-stream" "reset-before-request")) }}
{{- fail (printf "services.%s.retries.retryOn has %q, which can carry out a request twice: set retries.idempotent where that is harmless, or take it out" $.name .) }}
{{- end }}
{{- end }}
{{- end }}
{{- $timeout := .service.timeout | default "60s" }}
{{- /* Istio refuses a timeout of 0, and takes a route without one to have no end. */}}
{{- if not (regexMatch "^(0+[a-z]+)+$" $timeout) }}
timeout: {{ $timeout }}
{{- end }}
# Never Istio's default: it also retries on 503, which can carry out a write twice.
retries:
  attempts: {{ if hasKey $retries "attempts" }}{{ $retries.attempts }}{{ else }}2{{ end }}
  {{- if ne (toString ($retries.attempts)) "0" }}
  retryOn: {{ join "," $on | quote }}
  {{- with $retries.perTryTimeout }}
  perTryTimeout: {{ . }}
  {{- end }}
  {{- end }}
{{- with .service.mirror }}
{{- if ne .to $.to }}
mirrors:
  - destination: {{- include "routing.destination" (dict "root" $.root "path" $.path "to" .to "key" (printf "services.%s.mirror.to" $.name)) | nindent 6 }}
    percentage: {value: {{ if hasKey . "percent" }}{{ .percent }}{{ else }}100{{ end }}}
{{- end }}
{{- end }}
{{- if .path }}
{{- with .service.cors }}
corsPolicy:
  allowOrigins:
    {{- range .origins }}
    - exact: {{ . }}
    {{- end }}
  allowMethods: {{ .methods | default (list "GET" "POST") | toJson }}
  allowHeaders: {{ .headers | default (list "content-type" "authorization") | toJson }}
  allowCredentials: {{ .credentials | default false }}
  maxAge: {{ .maxAge | default "24h" }}
{{- end }}
{{- end }}
{{- end }}

{{/*
The mesh identity of the ingress gateway.
Sample: principals: [{{ include "routing.gatewayPrincipal" $ | quote }}]
*/}}
{{- define "routing.gatewayPrincipal" -}}
{{- with .Values.platform }}
{{- printf "%s/ns/%s/sa/%s" .trustDomain .gateway.namespace .gateway.serviceAccount }}
{{- end }}
{{- end }}

{{/*
The requests that need a token: all but those to the public paths and, where browsers of other
origins may call, what they ask before, which carries none. Empty where it is all of them.
Sample: to: {{- include "routing.tokenWanted" $ | nindent 8 }}
*/}}
{{- define "routing.tokenWanted" -}}
{{- $cors := false }}
{{- range .Values.services }}{{ $cors = or $cors (not (empty (. | default dict).cors)) }}{{ end }}
{{- if or $cors .Values.jwt.publicPaths }}
- operation:
    {{- with .Values.jwt.publicPaths }}
    notPaths: {{- toYaml . | nindent 6 }}
    {{- end }}
    {{- if $cors }}
    notMethods: [OPTIONS]
    {{- end }}
{{- end }}
{{- end }}
