{{/*
The spec that a Job and each run of a CronJob share.
Sample: spec: {{- include "service.job" . | nindent 2 }}
*/}}
{{- define "service.job" -}}
activeDeadlineSeconds: {{ .Values.job.activeDeadlineSeconds }}
backoffLimit: {{ .Values.job.backoffLimit }}
{{- if eq .Values.kind "CronJob" }}
ttlSecondsAfterFinished: {{ .Values.job.ttlSecondsAfterFinished }}
{{- /* A Job by itself stays: one that is gone Argo CD makes, and so runs, again. */}}
{{- end }}
podFailurePolicy:
  rules:
    {{- with .Values.job.failOnExitCodes }}
    - action: FailJob
      onExitCodes: {containerName: {{ include "service.name" $ }}, operator: In, values: {{ toJson . }}}
    {{- end }}
    # Eviction and drained nodes are not the run's fault.
    - action: Ignore
      onPodConditions: [{type: DisruptionTarget, status: "True"}]
template: {{- include "service.pod" . | nindent 2 }}
{{- end }}
