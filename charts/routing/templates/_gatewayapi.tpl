{{/*
HTTPRoute rules of one service, from the same values as "routing.routes". An HTTPRoute cannot forbid
retries: Istio's default for the whole mesh holds (docs/operations.md has the one to set).
Sample: rules: {{- include "routing.gatewayApiRules" (dict "root" $ "name" "inference" "path" "") | nindent 4 }}
*/}}
{{- define "routing.gatewayApiRules" -}}
{{- $root := .root }}
{{- $name := .name }}
{{- $path := .path }}
{{- $service := index $root.Values.services $name | default dict }}
{{- range $key := list "fault" "subsets" "cors" "retries" }}
{{- if hasKey $service $key }}
{{- fail (printf "services.%s.%s has no counterpart in the Gateway API: take it out, or set api to istio" $name $key) }}
{{- end }}
{{- end }}
{{- range $arm, $to := $service.arms }}
- {{- include "routing.gatewayApiRule" (dict "root" $root "service" $service "name" $name "path" $path "headers" (dict "x-slipway-arm" $arm) "split" (dict $to 100)) | nindent 2 }}
{{- end }}
{{- range $key := include "routing.ruleOrder" $service | fromJsonArray }}
{{- $rule := index $service.rules $key }}
{{- if $rule.claims }}
{{- fail (printf "services.%s.rules.%s.claims has no counterpart in the Gateway API: take it out, or set api to istio" $name $key) }}
{{- end }}
- {{- include "routing.gatewayApiRule" (dict "root" $root "service" $service "name" $name "path" $path "headers" $rule.headers "query" $rule.query "split" (dict $rule.to 100)) | nindent 2 }}
{{- end }}
- {{- include "routing.gatewayApiRule" (dict "root" $root "service" $service "name" $name "path" $path "split" ($service.split | default (dict $name 100))) | nindent 2 }}
{{- end }}

{{/*
One rule of an HTTPRoute: match, mirror, timeout, and its destinations with their weights.
Sample: - {{- include "routing.gatewayApiRule" (dict "root" $ "service" $service "name" "inference" "path" "/" "split" (dict "inference" 100)) | nindent 2 }}
*/}}
{{- define "routing.gatewayApiRule" -}}
{{- $root := .root -}}
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
{{- with .service.mirror }}
{{- if ne (keys $.split | join ",") .to }}
filters:
  - type: RequestMirror
    requestMirror:
      backendRef: {name: {{ .to }}, port: {{ (index $root.Values.services .to | default dict).port | default 8080 }}}
      percent: {{ if hasKey . "percent" }}{{ int .percent }}{{ else }}100{{ end }}
{{- end }}
{{- end }}
backendRefs:
  {{- range $to, $weight := .split }}
  {{- if not (hasKey $root.Values.services $to) }}
  {{- fail (printf "services.%s routes to %q, which is no key of services (%s): add services.%s with its callers, or correct the name" $.name $to (keys $root.Values.services | sortAlpha | join ", ") $to) }}
  {{- end }}
  - {name: {{ $to }}, port: {{ (index $root.Values.services $to | default dict).port | default 8080 }}, weight: {{ $weight }}}
  {{- end }}
{{- end }}
