{{/*
The pod template that Deployment, CronJob and Job share: metadata and spec.
Sample: template: {{- include "service.pod" . | nindent 4 }}
*/}}
{{- define "service.pod" -}}
metadata:
  labels: {{- include "service.podLabels" . | nindent 4 }}
  annotations:
    kubectl.kubernetes.io/default-container: {{ include "service.name" . }}
    # Pods follow their configuration.
    checksum/config: {{ include "service.env" . | sha256sum }}
    {{- with .Values.sidecar }}
    {{- if .inject }}
    sidecar.istio.io/proxyCPU: {{ .resources.requests.cpu | quote }}
    sidecar.istio.io/proxyMemory: {{ .resources.requests.memory | quote }}
    sidecar.istio.io/proxyCPULimit: {{ .resources.limits.cpu | quote }}
    sidecar.istio.io/proxyMemoryLimit: {{ .resources.limits.memory | quote }}
    {{- end }}
    {{- end }}
    {{- if and .Values.monitoring.enabled .Values.sidecar.inject }}
    # The sidecar's agent offers these together with Envoy's own at 15020, in plain text: Prometheus needs no mesh.
    prometheus.io/scrape: "true"
    prometheus.io/port: {{ get .Values.ports "http" | quote }}
    prometheus.io/path: /metrics
    {{- end }}
    {{- with .Values.podAnnotations }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
spec:
  serviceAccountName: {{ include "service.name" . }}
  automountServiceAccountToken: {{ .Values.serviceAccount.token }}
  enableServiceLinks: false
  {{- if ne .Values.kind "Deployment" }}
  restartPolicy: Never
  {{- end }}
  terminationGracePeriodSeconds: {{ .Values.stop.graceSeconds }}
  securityContext:
    runAsNonRoot: true
    runAsUser: 65532
    runAsGroup: 65532
    fsGroup: 65532
    seccompProfile: {type: RuntimeDefault}
  {{- with .Values.priorityClassName }}
  priorityClassName: {{ . }}
  {{- end }}
  {{- with .Values.runtimeClassName }}
  runtimeClassName: {{ . }}
  {{- end }}
  {{- with .Values.nodeSelector }}
  nodeSelector: {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with .Values.tolerations }}
  tolerations: {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- if eq .Values.kind "Deployment" }}
  topologySpreadConstraints:
    {{- range $key, $when := .Values.topologySpread }}
    {{- if $when }}
    - topologyKey: {{ $key }}
      maxSkew: 1
      whenUnsatisfiable: {{ $when }}
      labelSelector:
        matchLabels: {{- include "service.selectorLabels" $ | nindent 10 }}
      # Old and new pods of a rolling update are spread apart from each other.
      matchLabelKeys: [pod-template-hash]
    {{- end }}
    {{- end }}
  {{- end }}
  {{- if .Values.modelFetch.enabled }}
  initContainers:
    - name: model-fetch
      args:
        - fetch
        - --to={{ .Values.modelFetch.path }}
        {{- range $name, $model := .Values.models }}
        - {{ printf "--model=%s/%s=%s@sha256:%s" $name $model.version $model.uri $model.sha256 | quote }}
        {{- end }}
      {{- include "service.container" . | nindent 6 }}
  {{- end }}
  containers:
    - name: {{ include "service.name" . }}
      {{- with .Values.args }}
      args: {{- toYaml . | nindent 8 }}
      {{- end }}
      {{- include "service.container" . | nindent 6 }}
      {{- if eq .Values.kind "Deployment" }}
      {{- with .Values.ports }}
      ports:
        {{- range $name, $port := . }}
        {{- if $port }}
        - {name: {{ $name }}, containerPort: {{ $port }}, protocol: TCP}
        {{- end }}
        {{- end }}
      {{- end }}
      {{- range $probe := list "startup" "readiness" "liveness" }}
      {{- with index $.Values.probes $probe }}
      {{ $probe }}Probe:
        httpGet: {path: {{ .path }}, port: {{ $.Values.probes.port }}}
        periodSeconds: {{ .periodSeconds }}
        timeoutSeconds: {{ .timeoutSeconds }}
        failureThreshold: {{ .failureThreshold }}
      {{- end }}
      {{- end }}
      {{- with .Values.stop.preStopSeconds }}
      lifecycle:
        preStop:
          sleep: {seconds: {{ . }}}
      {{- end }}
      {{- end }}
  volumes:
    - name: tmp
      emptyDir: {sizeLimit: 256Mi}
    {{- if .Values.modelFetch.enabled }}
    {{- include "service.roomForModel" . }}
    - name: models
      emptyDir: {sizeLimit: {{ .Values.modelFetch.sizeLimit }}}
    {{- end }}
    {{- range $name, $path := .Values.secretFiles }}
    - name: secret-{{ $name }}
      secret: {secretName: {{ $name }}, defaultMode: 0440}
    {{- end }}
    {{- with .Values.projectedTokens }}
    - name: tokens
      projected:
        sources:
          {{- range $name, $token := . }}
          - serviceAccountToken:
              path: {{ $name }}
              audience: {{ $token.audience }}
              expirationSeconds: {{ $token.expirationSeconds | default 3600 }}
          {{- end }}
    {{- end }}
{{- end }}

{{/*
What the container and the one that fetches its models have in common.
Sample: {{- include "service.container" . | nindent 6 }}
*/}}
{{- define "service.container" -}}
image: {{ include "service.image" . }}
# The digest names the content: a node that has it need not ask again.
imagePullPolicy: IfNotPresent
# Why it ended: what it wrote there or, where it could not, the end of its log.
terminationMessagePolicy: FallbackToLogsOnError
env:
  - name: POD_NAME
    valueFrom: {fieldRef: {fieldPath: metadata.name}}
  - {name: RELEASE_NAME, value: {{ .Release.Name | quote }}}
  - {name: SOURCE_REVISION, value: {{ .Values.image.revision | quote }}}
envFrom:
  - configMapRef: {name: {{ include "service.name" . }}}
  {{- range $name, $wanted := include "service.layered" (dict "root" . "key" "envFromSecrets") | fromJson }}
  {{- if $wanted }}
  - secretRef: {name: {{ $name }}{{ if eq (toString $wanted) "optional" }}, optional: true{{ end }}}
  {{- end }}
  {{- end }}
resources:
  requests: {{- toYaml .Values.resources.requests | nindent 4 }}
  limits: {{- toYaml .Values.resources.limits | nindent 4 }}
securityContext:
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  capabilities: {drop: [ALL]}
volumeMounts:
  - {name: tmp, mountPath: /tmp}
  {{- if .Values.modelFetch.enabled }}
  - {name: models, mountPath: {{ .Values.modelFetch.path }}}
  {{- end }}
  {{- range $name, $path := .Values.secretFiles }}
  - {name: secret-{{ $name }}, mountPath: {{ $path }}, readOnly: true}
  {{- end }}
  {{- if .Values.projectedTokens }}
  - {name: tokens, mountPath: /var/run/secrets/tokens, readOnly: true}
  {{- end }}
{{- end }}
