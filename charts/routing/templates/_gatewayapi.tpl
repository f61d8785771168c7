{{/*
HTTPRoute rules of one service, from the same values as "routing.routes": sticky arms, rules, the
split. An HTTPRoute cannot forbid retries: Istio's default for the whole mesh holds
(docs/operations/platforms.md has it). Nor has it an order of its own: more conditions go first,
so values that want it otherwise are refused.
Sample: rules: {{- include "routing.gatewayApiRules" (dict "root" $ "name" "inference" "path" "") | nindent 4 }}
*/}}
{{- define "routing.gatewayApiRules" -}}
{{- $root := .root }}
{{- $name := .name }}
{{- $path := .path }}
{{- $service := index $root.Values.services $name | default dict }}
{{- range $key := list "fault" "subsets" "retries" }}
{{- if hasKey $service $key }}
{{- fail (printf "services.%s.%s has no counterpart in the Gateway API: take it out, or set api to istio" $name $key) }}
{{- end }}
{{- end }}
{{- $common := dict "root" $root "service" $service "name" $name "path" $path }}
{{- $rank := dict "conditions" 99999 "of" "" }}
{{- range $arm, $to := $service.arms }}
{{- $_ := set $rank "conditions" 100 }}{{ $_ := set $rank "of" (printf "arms.%s" $arm) }}
- {{- include "routing.gatewayApiRule" (merge (dict "headers" (dict "x-slipway-arm" $arm) "split" (dict $to 100)) $common) | nindent 2 }}
{{- end }}
{{- range $key := include "routing.ruleOrder" $service | fromJsonArray }}
{{- $rule := index $service.rules $key }}
{{- if $rule.claims }}
{{- fail (printf "services.%s.rules.%s.claims has no counterpart in the Gateway API: take it out, or set api to istio" $name $key) }}
{{- end }}
{{- if not (or $rule.headers $rule.query) }}
{{- fail (printf "services.%s.rules.%s has no condition: set headers or query, or use split" $name $key) }}
{{- end }}
{{- $conditions := add (mul 100 (len (keys ($rule.headers | default dict)))) (len (keys ($rule.query | default dict))) | int }}
{{- if gt $conditions (int $rank.conditions) }}
{{- fail (printf "services.%s.rules.%s has more conditions than services.%s.%s, which is to be tried first; the Gateway API tries more headers, then more query parameters first: give the former the lower order or no more conditions, or set api to istio" $name $key $name $rank.of) }}
{{- end }}
{{- $_ := set $rank "conditions" $conditions }}{{ $_ := set $rank "of" (printf "rules.%s" $key) }}
- {{- include "routing.gatewayApiRule" (merge (dict "headers" $rule.headers "query" $rule.query "split" (dict $rule.to 100)) $common) | nindent 2 }}
{{- end }}
- {{- include "routing.gatewayApiRule" (merge (dict "split" ($service.split | default (dict $name 100))) $common) | nindent 2 }}
{{- end }}

{{/*
One rule of an HTTPRoute: match, mirror, CORS, timeout, and its destinations with their weights.
Sample: - {{- include "routing.gatewayApiRule" (dict "root" $ "service" $service "name" "inference" "path" "/" "split" (dict "inference" 100)) | nindent 2 }}
*/}}
{{- define "routing.gatewayApiRule" -}}
{{- $sum := 0 }}{{ range .split }}{{ $sum = add $sum . }}{{ end -}}
{{- if ne (int $sum) 100 }}
{{- fail (printf "services.%s.split adds up to %d (%s): make it 100" .name (int $sum) (toJson .split)) }}
{{- end -}}
matches:
  - path: {type: PathPrefix, value: {{ .path | default "/" | quote }}}
    {{- with .headers }}
    headers:
      {{- range $header, $value := . }}
      - {type: Exact, name: {{ lower $header | quote }}, value: {{ $value | quote }}}
      {{- end }}
    {{- end }}
    {{- with .query }}
    queryParams:
      {{- range $parameter, $value := . }}
      - {type: Exact, name: {{ $parameter | quote }}, value: {{ $value | quote }}}
      {{- end }}
    {{- end }}
timeouts: {request: {{ .service.timeout | default "60s" }}}
{{- with include "routing.gatewayApiFilters" . | trim }}
filters: {{- . | nindent 2 }}
{{- end }}
backendRefs:
  {{- range $to, $weight := .split }}
  - {{ include "routing.gatewayApiBackend" (merge (dict "to" $to "key" "split, arms or rules" "weight" $weight) $) }}
  {{- end }}
{{- end }}

{{/*
Filters of one rule: the mirror, unless all its requests go there anyway, and CORS at the gateway.
Sample: filters: {{- include "routing.gatewayApiFilters" (dict "root" $ "service" $service "name" "inference" "path" "/" "split" $split) | nindent 2 }}
*/}}
{{- define "routing.gatewayApiFilters" -}}
{{- with .service.mirror }}
{{- if ne (keys $.split | join ",") .to }}
{{- $percent := 100.0 }}{{ if hasKey . "percent" }}{{ $percent = float64 .percent }}{{ end }}
- type: RequestMirror
  requestMirror:
    backendRef: {{ include "routing.gatewayApiBackend" (merge (dict "to" .to "key" "mirror.to") $) }}
    {{- if eq $percent (floor $percent) }}
    percent: {{ int $percent }}
    {{- else }}
    # A percent is a whole number there.
    fraction: {numerator: {{ round (mulf $percent 1000) 0 | int }}, denominator: 100000}
    {{- end }}
{{- end }}
{{- end }}
{{- if .path }}
{{- with .service.cors }}
{{- $seconds := 0 }}
{{- range regexFindAll "[0-9]+(ms|s|m|h)" (.maxAge | default "24h") -1 }}
{{- $unit := regexFind "[a-z]+" . }}
{{- $seconds = addf $seconds (divf (mulf (regexFind "[0-9]+" . | int) (get (dict "ms" 1 "s" 1000 "m" 60000 "h" 3600000) $unit)) 1000) }}
{{- end }}
- type: CORS
  cors:
    allowOrigins: {{ .origins | toJson }}
    allowMethods: {{ .methods | default (list "GET" "POST") | toJson }}
    allowHeaders: {{ .headers | default (list "content-type" "authorization") | toJson }}
    allowCredentials: {{ .credentials | default false }}
    maxAge: {{ max 1 (int $seconds) }}
{{- end }}
{{- end }}
{{- end }}

{{/*
A destination as a reference to its Service; one that nobody declared is refused.
Sample: - {{ include "routing.gatewayApiBackend" (dict "root" $ "name" "proxy" "to" "inference" "key" "split" "weight" 100) }}
*/}}
{{- define "routing.gatewayApiBackend" -}}
{{- if not (hasKey .root.Values.services .to) -}}
{{- fail (printf "services.%s routes to %q (%s), which is no key of services (%s): add services.%s, or correct the name" .name .to .key (keys .root.Values.services | sortAlpha | join ", ") .to) -}}
{{- end -}}
{name: {{ .to }}, port: {{ (index .root.Values.services .to | default dict).port | default 8080 }}{{ if hasKey . "weight" }}, weight: {{ .weight }}{{ end }}}
{{- end }}

{{/*
Only routes of this environment's namespace.
Sample: allowedRoutes: {{- include "routing.fromHere" $ | nindent 8 }}
*/}}
{{- define "routing.fromHere" -}}
namespaces:
  from: Selector
  selector:
    matchLabels: {kubernetes.io/metadata.name: {{ .Release.Namespace }}}
{{- end }}
