{{/* dockerd's configuration: no address but the socket, and no traffic between the steps of different builds. */}}
{{- define "replay.engineConfig" -}}
{{- $own := dict
    "hosts" (list (printf "unix://%s" .Values.engine.socket))
    "data-root" .Values.engine.data
    "icc" false
    "builder" (dict "gc" (dict "enabled" true))
-}}
{{- merge (deepCopy .Values.engine.config) $own | toPrettyJson -}}
{{- end -}}
