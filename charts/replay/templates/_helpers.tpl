{{/* The release's own name where it says what this is, so that a release “replay” has a Service “replay”. */}}
{{- define "replay.fullname" -}}
{{- $name := default .Chart.Name .Values.nameOverride -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 50 | trimSuffix "-" -}}
{{- else if contains $name .Release.Name -}}
{{- .Release.Name | trunc 50 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name $name | trunc 50 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{/* What finds the pods of one component: (list $ "service"). Never changes for a release. */}}
{{- define "replay.selectorLabels" -}}
{{- $root := index . 0 -}}
app.kubernetes.io/name: replay
app.kubernetes.io/instance: {{ $root.Release.Name }}
app.kubernetes.io/component: {{ index . 1 }}
{{- end -}}

{{- define "replay.labels" -}}
{{- $root := index . 0 -}}
{{ include "replay.selectorLabels" . }}
app.kubernetes.io/version: {{ $root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ $root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" $root.Chart.Name $root.Chart.Version | replace "+" "_" }}
{{- end -}}

{{/* NAME:TAG, or NAME@sha256:… where the tag is a digest: (list $image "service"). */}}
{{- define "replay.image" -}}
{{- $image := index . 0 -}}
{{- $name := required (printf "%s.image.name: name the image that charts/replay/images/Dockerfile makes (target %s)." (index . 1) (index . 1 | trimSuffix "s" | replace "build" "builder")) $image.name -}}
{{- $tag := required (printf "%s.image.tag: a tag, or best a digest, sha256:…" (index . 1)) $image.tag -}}
{{- if hasPrefix "sha256:" $tag -}}{{ $name }}@{{ $tag }}{{- else -}}{{ $name }}:{{ $tag }}{{- end -}}
{{- end -}}

{{- define "replay.pullSecrets" -}}
{{- with . }}
imagePullSecrets:
  {{- range . }}
  - name: {{ . }}
  {{- end }}
{{- end }}
{{- end -}}

{{- define "replay.buildNamespace" -}}
{{- $name := default (printf "%s-builds" .Release.Namespace) .Values.builds.namespace -}}
{{- if and (eq $name .Release.Namespace) (not .Values.builds.allowReleaseNamespace) -}}
{{- fail "builds.namespace: the service may make pods there and run programs in them, so it would reach the hub's Secrets. Leave it empty or name another one; or accept that with builds.allowReleaseNamespace." -}}
{{- end -}}
{{ $name }}
{{- end -}}

{{- define "replay.serviceAccountName" -}}
{{- if .Values.service.serviceAccount.create -}}
{{ default (include "replay.fullname" .) .Values.service.serviceAccount.name }}
{{- else -}}
{{ default "default" .Values.service.serviceAccount.name }}
{{- end -}}
{{- end -}}

{{/* Of a container that needs nothing: no root, no rights, nothing to write to but its volumes. */}}
{{- define "replay.narrowContainer" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
{{- end -}}

{{- define "replay.engineSocket" -}}
{{- if .Values.engine.enabled }}{{ .Values.engine.socket }}{{ else }}{{ .Values.engine.hostSocket }}{{ end -}}
{{- end -}}

{{- define "replay.engineData" -}}
{{- if .Values.engine.enabled }}{{ .Values.engine.data }}{{ else }}{{ .Values.engine.hostData }}{{ end -}}
{{- end -}}

{{/* The token that hub and service share: what is there stays, so that an upgrade changes nothing. */}}
{{- define "replay.serviceToken" -}}
{{- $there := (lookup "v1" "Secret" .Release.Namespace (include "replay.fullname" .)).data | default dict -}}
{{- get $there "service_token" | default (randAlphaNum 64 | sha256sum | b64enc) -}}
{{- end -}}
