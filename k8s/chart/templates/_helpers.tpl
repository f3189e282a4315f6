{{- /* What more than one template says. */ -}}

{{- define "haproxy-safe-reload.labels" -}}
app.kubernetes.io/name: {{ .Release.Name }}
{{- end }}

{{- define "haproxy-safe-reload.vips" -}}
{{ .Values.vips }}{{ if .Values.tls.secretName }},{{ .Values.tls.vips }}{{ end }}{{ if .Values.http3.enabled }},{{ .Values.http3.vips }}{{ end }}
{{- end }}

{{- /* The variables without their prefix; .Values.options win. */ -}}
{{- define "haproxy-safe-reload.options" -}}
VIPS: {{ include "haproxy-safe-reload.vips" . | quote }}
EXPORTER: ":9101"
WATCH: auto
STATE_DIR: /var/lib/safe_reload
STOP_DELAY: {{ .Values.stop.delay | quote }}
STOP_TIMEOUT: {{ .Values.stop.timeout | quote }}
DRAIN_TIMEOUT: {{ .Values.drain.timeout | quote }}
MAX_DRAINING: {{ .Values.drain.max | quote }}
LOG_FORMAT: json
{{- end }}
